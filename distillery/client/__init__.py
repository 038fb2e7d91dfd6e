"""A service from Python: jobs, their events, and downloads that are verified; see `client`.

`distillery.Client` is the way in. Needs httpx2 and numpy, never torch.
"""
