"""The DeepDiver workflow of the DLLM Agent paper (arXiv 2602.07451): a planner hands tasks to information seekers, over tools and files."""
