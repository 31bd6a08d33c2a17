# docker build -t unbatch . && docker run --rm -v "$PWD:/work" --user "$(id -u)" unbatch audit --model client.py:build ...
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
# torch for CPUs first: the default build of torch brings gigabytes of CUDA along.
RUN pip install --no-cache-dir --no-deps --constraint /tmp/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
 && pip install --no-cache-dir --constraint /tmp/constraints.txt /tmp/wheels/*.whl \
 && rm -r /tmp/wheels /tmp/constraints.txt \
 && useradd --create-home --uid 10001 auditor
USER auditor
WORKDIR /work
ENTRYPOINT ["unbatch"]
CMD ["--help"]
