"""The admin server: the status page and its API, over HTTP.

It knows the balancer by :class:`easyproxy.control.operations.Operations` alone. FastAPI and uvicorn are imported by the
modules in here only, so whoever does without the admin server does without them.
"""
