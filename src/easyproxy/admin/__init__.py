"""The admin server: the status page and its API, over HTTP.

It reads :class:`easyproxy.control.status.View` and nothing else of the balancer. FastAPI and uvicorn are imported
by the modules in here only, so whoever does without the admin server does without them.
"""
