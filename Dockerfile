# The app in the browser, on a CPU. egs/web/CONTAINER.md says how to build and run it; Dockerfile.cuda is for a GPU.
FROM python:3.11-slim

# Index of a CPU build of torch. If empty, pip takes its usual build, which for Linux contains CUDA and is GBs larger.
ARG TORCH_INDEX_URL=""

# Dependencies first, so that a change of the code does not install torch again. setup.py needs its folders to exist.
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir bins config models modules preprocessors utils web \
    && if [ -n "$TORCH_INDEX_URL" ]; then pip install --no-deps -c constraints.txt -i "$TORCH_INDEX_URL" torch; fi \
    && pip install -c constraints.txt ".[web]"

COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall .

# Uid 1000 is also the user of a Hugging Face Space. Only /data is written: runs and results in the working directory,
# downloads, uploads, and caches (without XDG_CACHE_HOME numba fails in a read-only container).
RUN useradd --uid 1000 --user-group --create-home app && install -d -o app -g app /data
ENV PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface \
    XDG_CACHE_HOME=/data/cache \
    GRADIO_TEMP_DIR=/data/gradio
USER 1000:1000
WORKDIR /data
VOLUME /data

EXPOSE 7860
# Not through a proxy that the variables of the host name.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; \
        build_opener(ProxyHandler({})).open('http://127.0.0.1:7860/gradio_api/startup-events', timeout=5)"]
CMD ["sonolume", "web", "--host", "0.0.0.0", "--port", "7860"]
