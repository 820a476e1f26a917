# The server in a container: docs/deploy.md says how it is run.
#
# Two stages: what the first one installs into /opt/downloadd is all that the second one takes
# over. Nothing here needs BuildKit, so no syntax line is fetched either.
#
# A tag can be moved, a digest cannot. To pin by digest:
#   docker buildx imagetools inspect python:3.13.16-slim-trixie --format '{{.Manifest.Digest}}'
# and write python:3.13.16-slim-trixie@sha256:… here. Renew both with the base image's fixes.
FROM python:3.13.16-slim-trixie AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# Wheels alone, and only with the hashes of the lock files: no code runs to install them.
RUN python -m venv --without-pip /opt/downloadd \
    && python -m pip --python /opt/downloadd/bin/python install --quiet \
        --require-hashes --only-binary :all: -r requirements.lock \
    && python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY downloadd downloadd
RUN python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /tmp/wheel . \
    && python -m pip --python /opt/downloadd/bin/python install --quiet --no-deps --no-index \
        /tmp/wheel/*.whl

FROM base AS run
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="downloadd" \
      org.opencontainers.image.description="All these files as one download: fetch, verify, pack, upload, and a signed link" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The embedded Valkey comes as a wheel for amd64; elsewhere Debian's own server serves. Of the
# base image's tools pip goes, so that nothing can be installed into a running container.
# hadolint ignore=DL3008
RUN if [ "$(dpkg --print-architecture)" != amd64 ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends valkey-server \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && python -m pip uninstall --quiet --yes --root-user-action=ignore pip \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && groupadd --gid 10001 downloadd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data \
        --shell /usr/sbin/nologin downloadd \
    && install -d -m 0700 -o 10001 -g 10001 /data
COPY --from=build /opt/downloadd /opt/downloadd
# The modules are compiled already, and the file system may be read-only.
ENV PATH=/opt/downloadd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONNOUSERSITE=1 \
    DOWNLOADD_SERVER_HOST=0.0.0.0 \
    DOWNLOADD_STATE_DATA_DIR=/data
# A config.toml that is mounted here is read.
WORKDIR /etc/downloadd
USER 10001:10001
# State, archives and temporary files, and all that is ever written.
VOLUME ["/data"]
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-I", "-m", "downloadd.healthcheck"]
ENTRYPOINT ["downloadd"]
CMD ["serve"]
