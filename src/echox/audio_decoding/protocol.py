"""Messages between the parent and a decoding worker (imports nothing heavy).

Request: `REQUEST` (bytes of the file, rate of the result in hertz, greatest duration in s), then the file. Answer:
`ANSWER` (status, bytes that follow), then float32 samples, or a message in UTF-8. A new worker says `READY` first.
"""

import struct

REQUEST = struct.Struct("<QId")
ANSWER = struct.Struct("<BQ")
READY, SAMPLES, REFUSED, TOO_MUCH_MEMORY, FAILED = range(5)
