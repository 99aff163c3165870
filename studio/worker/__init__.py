"""The process that owns the device: it takes work from the store and does it.

`loop` is the main loop and decides the order of work. `renderer` holds the model and draws;
`pair_queue` keeps pairs ready, `rounds` trains, `jobs` serves the pages' requests, `downloads`
fetches models, `model_library` remembers them, and `status` informs the artist. All lasting state
is in the store: a worker that is killed is started again and goes on from rows and files. An error
becomes a sentence for the artist and a traceback in the log.
"""
