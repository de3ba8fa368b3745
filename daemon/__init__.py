"""suno-videod: every Suno music video that was paid for ends up on disk, whole and verified.

The river, and the files along it::

    POST /video-callback/<token>              submit, track (command line, admin API), gateway
            |  callback, rules/notice                |  office, submitter, gateway
            v                                        v
          store  <--- one durable commit, many callbacks in it, then 200
            |
       EXPECTED --poller asks--> WANTED --download--> VERIFIED --publish--> STORED --finish--> DONE
          ^                        |                                          |
          +------ link dead -------+   FAILED, LOST (proved) --outbox, courier--> the application

A callback is a hint and the provider's answer is the truth, so polling is not a second machine: a
callback makes the question due now, silence makes it due later.
"""

__version__ = "0.2.0"
