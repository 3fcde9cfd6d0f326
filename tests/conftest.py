import torch

# The arrays of these tests are small: handing them to several threads costs more than it gains.
torch.set_num_threads(1)
