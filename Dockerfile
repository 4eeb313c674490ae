# EchoX on a CPU: one process that serves one model. Build: docker build -t echox .
FROM python:3.12-slim AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
# torch comes from its CPU index: the default wheels bring gigabytes of CUDA.
RUN python -m venv /opt/echox \
 && /opt/echox/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
      "$(grep '^torch==' constraints.txt | cut -d';' -f1)" \
 && /opt/echox/bin/pip install --no-cache-dir -c constraints.txt '.[serve]' \
 && /opt/echox/bin/pip install --no-cache-dir --no-deps silero-vad

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 echox
COPY --from=build /opt/echox /opt/echox
USER echox
ENV PATH=/opt/echox/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Listens beyond loopback, so it wants ECHOX_API_KEY.
ENTRYPOINT ["echox", "serve", "--host", "0.0.0.0"]
