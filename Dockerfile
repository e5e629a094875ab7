# mmpref on an NVIDIA GPU. No check of this repository builds it: docs/installing.md says what is known of it.
#
#   docker build -t mmpref .
#   docker run --rm --gpus all mmpref doctor
#   docker run --rm --gpus all --ipc=host -v "$PWD:/workspace" mmpref train RECIPE data.train=pairs.jsonl data.root=images
#
# The base makes the driver of the host visible; CUDA itself comes with torch's wheel. Ubuntu 24.04 has Python 3.12.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04

FROM ${BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/* \
  && python3 -m venv /usr/local/build && /usr/local/build/bin/pip install --no-cache-dir build
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY mmpref mmpref
COPY data_cards data_cards
COPY docs docs
COPY scripts/accelerate scripts/accelerate
RUN /usr/local/build/bin/python -m build --wheel --outdir /dist .

FROM ${BASE}
# of pyproject.toml, with commas between them
ARG EXTRAS=qlora,report,video
# scripts/constraints.txt is one set of versions known to work together; an empty file takes the newest
ARG CONSTRAINTS=scripts/constraints.txt
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1001 mmpref \
  && mkdir /workspace && chown mmpref /workspace
COPY --from=build /dist /dist
COPY ${CONSTRAINTS} /dist/constraints.txt
RUN python3 -m venv /usr/local/mmpref \
  && /usr/local/mmpref/bin/pip install --no-cache-dir --constraint /dist/constraints.txt "$(echo /dist/mmpref-*.whl)[${EXTRAS}]" \
  && /usr/local/mmpref/bin/mmpref --version
ENV PATH=/usr/local/mmpref/bin:$PATH
USER mmpref
WORKDIR /workspace
ENTRYPOINT ["mmpref"]
CMD ["--help"]
