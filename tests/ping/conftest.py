from tests.udp.conftest import host

__all__ = ["host"]
