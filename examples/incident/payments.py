"""The payments behind Envoy: answers each call with what reached it, and tells who asks for /events what happens, for ever.

    payments.py PORT
"""

import http.server
import sys
import time

from upstream import Workload

# Time between two events.
TICK_S = 0.005


class Payments(Workload):
    def do_GET(self):
        if self.path != "/events":
            self.answer()
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"d\r\ndata: event\n\n\r\n")
                time.sleep(TICK_S)
        except OSError:
            # Envoy has hung up: the stream was cut, or its client is gone.
            self.close_connection = True


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Payments).serve_forever()
