# One image for the nodes, the launcher and the evaluator; docs/docker.md tells how it is used.
# Any Debian image with Python 3.11 or newer will do.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# CPU builds of PyTorch; https://download.pytorch.org/whl/cu128 has those for NVIDIA GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/dgan
ENV PATH=/opt/dgan/bin:$PATH PIP_NO_CACHE_DIR=1
# Layers in the order in which they change: torch, the other dependencies, dgan itself.
COPY constraints.txt pyproject.toml ./
# Its dependencies come with the others: PyTorch's own index has few versions of them.
RUN if python -c "import urllib.request as u; u.urlopen('${TORCH_INDEX}/torch/', timeout=10)"; then \
      pip install --constraint constraints.txt --index-url "${TORCH_INDEX}" --no-deps torch; \
    else \
      echo "${TORCH_INDEX} cannot be reached: torch comes from pip's usual sources" >&2; \
      pip install --constraint constraints.txt --no-deps torch; \
    fi
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt
COPY . .
ARG VERSION=0.1.0
# What only builds or tests other software stays behind: headers, test programs, test suites, pip.
RUN pip install --constraint constraints.txt --no-deps . \
 && pip uninstall --yes pip setuptools \
 && cd /opt/dgan/lib/python3*/site-packages \
 && rm -rf torch/include torch/share torch/test torch/lib/*_test.so \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find matplotlib networkx scipy sklearn sympy -depth -type d -name tests -exec rm -rf {} + \
 && python -c "import node.session, launcher.__main__, eval.probe, eval.quality, eval.report" \
 && test "$(dgan-node --version)" = "${VERSION}"

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="dgan" \
      org.opencontainers.image.description="GANs trained together by machines that never share their data" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/dgan /opt/dgan
# /dgan is what a node is given and may only read; /dgan/nodes, where it writes, is its own.
RUN groupadd --gid 1000 dgan \
 && useradd --uid 1000 --gid dgan --home-dir /dgan --shell /usr/sbin/nologin dgan \
 && install -d -o dgan -g dgan /dgan/nodes
ENV PATH=/opt/dgan/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp
WORKDIR /dgan
USER dgan
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "node.health", "nodes"]
ENTRYPOINT ["dgan-node"]
CMD ["--help"]
