# bae_ray with all that it needs, for `docker run` and for KubeRay, whose containers start `ray`. On CPUs, on NVIDIA's GPUs,
# and with vLLM for a judge:
#
#     docker build -t bae-ray:cpu .
#     docker build -t bae-ray:cuda --build-arg DEVICE=cuda .
#     docker build -t bae-ray-judge:cuda --build-arg DEVICE=cuda --build-arg EXTRAS=bundled,hub,judge .
#
# The service of the encoders in a folder, for who has the key (`openssl rand -hex 24` makes one):
#
#     docker run --init --shm-size 2g -p 8000:8000 -v "$PWD/runs/sweep:/registry:ro" -e BAE_RAY_API_KEYS bae-ray:cpu
#
# CUDA's libraries come with torch's packages, so that both devices have one base. It is pinned by the digest of its index
# of platforms; `docker buildx imagetools inspect python:3.11-slim-bookworm` shows that of a newer one.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM ${PYTHON_IMAGE}

ARG DEVICE=cpu
ARG EXTRAS=bundled,hub,search
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# wget: KubeRay's probes call it. gcc and C's headers: Triton compiles what starts its kernels. Debian's archive keeps no
# earlier versions of these, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && if [ "$DEVICE" = cuda ]; then apt-get install --yes --no-install-recommends gcc libc6-dev; fi \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

# Login shells, which KubeRay may start, forget the first.
ENV PATH=/opt/venv/bin:$PATH
RUN echo "export PATH=$PATH" > /etc/profile.d/venv.sh

# Dependencies, by what `make` installs with too: an empty package stands in for the code, whose changes leave this layer.
WORKDIR /app
COPY pyproject.toml ./
COPY requirements/ requirements/
RUN mkdir bae_ray && touch bae_ray/__init__.py README.md LICENSE \
    && BAE_RAY_DEVICE=$DEVICE PIP_NO_CACHE_DIR=1 requirements/install.sh /opt/venv "$EXTRAS"

COPY README.md LICENSE ./
COPY bae_ray/ bae_ray/
COPY jobs/ jobs/
COPY serve/ serve/
RUN /opt/venv/bin/python -m compileall -q bae_ray

USER 1000
EXPOSE 8000
CMD ["bae-ray", "serve", "--registry", "/registry", "--host", "0.0.0.0"]
# Of the service. Containers that do something else: `docker run --no-healthcheck`; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["wget", "--quiet", "--output-document=/dev/null", "http://127.0.0.1:8000/readyz"]
