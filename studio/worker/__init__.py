"""The process that owns the device: it takes work from the store and does it.

`loop` is the main loop, and the order in which work is urgent. `easel` holds the model and draws;
`asking` keeps pairs ready, `rounds` trains, `jobs` does what a page asked for, `downloads` fetches
models and `shelf` remembers them; `voice` lets the artist know. Nothing is kept here that may not
be lost: a worker that is killed, by whatever, is started again and goes on from rows and files.
What goes wrong becomes a sentence for the artist, and a traceback in the log.
"""
