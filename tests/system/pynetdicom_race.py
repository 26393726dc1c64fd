"""Mends a race in pynetdicom 3.0.4, on import: on a crowded host an answer to a request of ours could vanish, and the peer waited 30 s for it.

`Association._run_reactor` says that it is paused, waits for the checkpoint, and only then says that it runs. Where its thread loses the processor in
between, `send_c_store()` and its like believe the pause of before; the reactor wakes and takes the answer off the queue as if it were
a request of the peer. Seen here about once in a hundred studies at a load of four on two cores; the answer was on the wire. Now the reactor takes a
message only if nobody waits for an answer, and looks at that under the queue's lock: an answer is put there under the same lock, after
the checkpoint was cleared.
"""
try:
    from pynetdicom.dimse import DIMSEServiceProvider
except ImportError:  # a test that needs no DICOM peer
    DIMSEServiceProvider = None


def get_msg(self, block=False):
    if block:
        return original(self, block)
    with self.msg_queue.mutex:
        if self.assoc._reactor_checkpoint.is_set() and self.msg_queue._qsize():
            return self.msg_queue._get()
    return None, None


if DIMSEServiceProvider:
    original = DIMSEServiceProvider.get_msg
    DIMSEServiceProvider.get_msg = get_msg
