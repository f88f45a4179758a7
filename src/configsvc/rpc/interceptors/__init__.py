"""What surrounds every call: one concern a module, in the order that `call_interceptor` says."""

from configsvc.rpc.interceptors.access_log import AccessLog
from configsvc.rpc.interceptors.call_interceptor import CallInterceptor

__all__ = ["AccessLog", "CallInterceptor"]
