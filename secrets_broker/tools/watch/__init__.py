"""`secrets-broker watch`: tells of conditions by webhook, syslog or line, at least once.

Which conditions there are, and when each holds, is in projections/conditions.
"""
