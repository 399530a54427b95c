# tinysearch on CPUs, or on NVIDIA GPUs with --build-arg TORCH=cuda; docs/cluster.md says how to use it.
FROM python:3.11-slim-bookworm

# KubeRay and compose.yaml check a container's health with wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm --recursive /var/lib/apt/lists/*

# The user id: set it to the owner of a folder that the container writes to.
ARG UID=10001
RUN useradd --uid "$UID" --create-home --shell /usr/sbin/nologin tinysearch \
    && mkdir --parents /app/runs /cache \
    && chown tinysearch: /app/runs /cache

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    TINYSEARCH_CACHE=/cache

# By far the largest layer. It is rebuilt only for another torch, not for each change of another dependency.
# The plain package includes CUDA's libraries; the image has nothing of the driver.
ARG TORCH=cpu
ARG TORCH_VERSION=2.13.0
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$TORCH" in \
        cpu) pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$TORCH_VERSION" ;; \
        cuda) pip install "torch==$TORCH_VERSION" ;; \
        *) echo "TORCH is cpu or cuda, not '$TORCH'" >&2; exit 2 ;; \
    esac

# Installed in place, from empty package folders: the code, which changes most, comes after all dependencies.
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir search trainer \
    && touch README.md search/__init__.py trainer/__init__.py \
    && pip install --constraint constraints.txt --editable '.[postgresql,cluster,s3]'

COPY . .

# A number, because Kubernetes cannot tell whether a name is root.
USER $UID
ENTRYPOINT ["tinysearch"]
CMD ["--help"]
