"""The internal HTTP API: from a request's head to its answer.

`routes` is the one table of endpoints, and a new one begins there; openapi.yaml describes them.
`app` assembles the application. A request passes
`head_first` (it is judged by its head), `middleware` (an id, admission, one log line) and its
resource; an error becomes an answer by `problems` and `error_handlers`. `server` holds the process
that serves, `auth` finds out who asks, `resources` holds the endpoints, `metrics` what is counted.
No SQL belongs here, and no rule about credentials.
"""
