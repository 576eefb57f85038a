"""The internal HTTP API: what every request passes.

`routes` is the one table of what there is. `app` puts all together. A request passes `head_first`
(judged by its head), `middleware` (an id, admission, one line in the log), its resource, and then
`problems` and `error_handlers` where it fails. The process that serves is in server, who asks in
auth, each endpoint in resources, what is counted in metrics. No SQL belongs in any of them, and no
rule about credentials.
"""
