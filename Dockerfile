# slr in a container, without root and without a compiler.
#   docker build -t slr .                              PyTorch as PyPI has it, with CUDA's libraries
#   docker build -t slr:cu126 --build-arg TORCH=cu126 .     for an older driver
#   docker build -t slr:cpu --build-arg TORCH=cpu .    several GB less
#   docker run --rm --gpus all -v slr-data:/app/data -v slr-outputs:/app/outputs -v slr-models:/models slr train.py …
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH=
WORKDIR /app
COPY pyproject.toml ./
# Dependencies alone: the layer stays when only slr changes.
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv venv --no-project /opt/venv \
    && VIRTUAL_ENV=/opt/venv uv pip install --no-cache --compile-bytecode ${TORCH:+--torch-backend=${TORCH}} -r pyproject.toml --extra train

FROM python:${PYTHON}
# `utility` brings nvidia-smi, which the doctor asks for the driver's version.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A new volume takes the owner of the folder that it lies over.
RUN useradd --uid 1000 --create-home slr \
    && mkdir -p /app/data /app/outputs /models \
    && chown slr:slr /app/data /app/outputs /models
COPY --from=build /opt/venv /opt/venv
COPY train.py evaluate.py prepare_data.py pyproject.toml LICENSE /app/
COPY conf /app/conf
COPY hydra_plugins /app/hydra_plugins
COPY slr /app/slr
WORKDIR /app
USER slr
VOLUME ["/app/data", "/app/outputs", "/models"]
ENTRYPOINT ["python"]
CMD ["-m", "slr.doctor"]
