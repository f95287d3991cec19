# Two stages: what builds the packages stays behind, the image runs as a user without rights.
#
#   docker build -t millrace .
#   docker build -t millrace --build-arg EXTRAS=torch --build-arg TORCH_INDEX=URL .
#
# EXTRAS: optional dependencies of pyproject.toml, with commas. TORCH_INDEX: a package index beside
# the usual one, such as PyTorch's own index of CPU builds (without it pip takes the CUDA build).
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS build
ARG EXTRAS=""
ARG TORCH_INDEX=""
WORKDIR /src
COPY . .
RUN python -m venv /opt/millrace \
 && /opt/millrace/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG EXTRAS=""
# LightGBM's wheel goes without its OpenMP.
RUN case ",$EXTRAS," in *,refit,*) \
      apt-get update && apt-get install -y --no-install-recommends libgomp1 \
      && rm -rf /var/lib/apt/lists/* ;; \
    esac
RUN groupadd --gid 10001 millrace \
 && useradd --uid 10001 --gid millrace --no-create-home --home-dir /state millrace \
 && install --directory --owner=millrace --group=millrace --mode=0700 /state
COPY --from=build /opt/millrace /opt/millrace
# Compiled kernels are kept beside the state: a start on a new volume compiles them once.
# The hash seed is what `millrace` would set by starting itself a second time.
ENV PATH="/opt/millrace/bin:$PATH" \
    NUMBA_CACHE_DIR=/state/numba \
    PYTHONHASHSEED=0 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /state
VOLUME /state
EXPOSE 8080
ENTRYPOINT ["millrace"]
CMD ["--help"]
