# The driver's image: one program for the controller, the node plugin and the commands.
#
# Any base with Python 3.11 or later does; tools it lacks are installed when it is a Debian.
# Wheels found in build/wheels are used instead of the package index, so that the image can
# be built without a network.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS dependencies
# NB: some builders do not look into a bind mount when they decide whether a cached step still
# holds. Whoever builds with one of these names the content here, and in SOURCES below.
ARG REQUIREMENTS=
# What the node plugin calls to mount, format and look at file systems.
RUN for tool in mount umount findmnt blkid mkfs.ext4 mkfs.xfs; do \
        command -v "$tool" >/dev/null || missing="$missing $tool"; \
    done; \
    if [ -n "$missing" ]; then \
        echo "installing what brings$missing" && apt-get update \
        && apt-get install -y --no-install-recommends e2fsprogs mount util-linux xfsprogs \
        && rm -rf /var/lib/apt/lists/*; \
    fi
RUN --mount=type=bind,target=/src \
    if [ -d /src/build/wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/src/build/wheels; fi \
    && python3 -m venv /opt/csi-liqo \
    && /opt/csi-liqo/bin/pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes -r /src/requirements/driver.txt

FROM dependencies
ARG SOURCES=
# setuptools writes beside the sources, which are read-only here.
RUN --mount=type=bind,target=/src \
    if [ -d /src/build/wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/src/build/wheels; fi \
    && mkdir /tmp/package && cp -r /src/csi_liqo /src/pyproject.toml /src/README.md /tmp/package \
    && /opt/csi-liqo/bin/pip install --no-cache-dir --disable-pip-version-check \
        --no-deps /tmp/package \
    && rm -r /tmp/package
ENV PATH=/opt/csi-liqo/bin:${PATH} PYTHONUNBUFFERED=1
ENTRYPOINT ["csi-liqo"]
