"""The web page: jobs, a new job, one job live, its result, the system; rendered on the server.

Own templates, scripts and styles only: nothing from outside, nothing inline, so that the page runs
under a strict content security policy and on a machine without a network.
"""
