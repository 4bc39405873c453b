"""Models of these tests are tiny: a second thread only waits, and beside another process it waits long."""

import torch

torch.set_num_threads(1)
