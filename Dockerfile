# One image for head, workers, training and the operator's command. Pin the base by digest where it is
# built for production: --build-arg BASE=rayproject/ray:2.60.0-py311@sha256:...
ARG BASE=rayproject/ray:2.60.0-py311
FROM ${BASE}

# KubeRay's probes call bash, wget and grep.
RUN command -v bash && command -v wget && command -v grep

WORKDIR /opt/flywheel
COPY --chown=root:root requirements.lock pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --require-hashes -r requirements.lock
COPY --chown=root:root recsys recsys
COPY --chown=root:root serve_app serve_app
COPY --chown=root:root train_app train_app
COPY --chown=root:root cluster cluster
COPY --chown=root:root configs configs
# Nothing is fetched here: what the code needs is in the lock.
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation . && cluster --help > /dev/null
# Compiled here once, for processors of the kind that builds the image; others compile at their start.
RUN cd / && python -m recsys.kernels

ENV RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000
WORKDIR /tmp
