"""What every HTTP service of the project shares.

A service is a FastAPI application with its own routes, given to `guarded` (`service.py`), which adds tokens,
limits, problems, health answers, metrics and the access log; `run` (`runner.py`) serves it from this process,
with limits on connections. An application that another server runs, such as Ray Serve's, is guarded likewise.
"""
