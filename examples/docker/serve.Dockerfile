# The HTTP server; run in a clone:
#   docker build -f examples/docker/serve.Dockerfile -t epic-pl-serve .
#   docker run --rm -p 8000:8000 -e EPIC_PL_API_KEY=secret -v "$PWD/runs/my:/model:ro" -v epic-pl:/home/server/.cache epic-pl-serve
# A run has no encoders: the first start fetches them into the volume epic-pl.
# Stop it with: docker stop --time 35, so that open requests are answered.
FROM python:3.12-slim
COPY pyproject.toml setup.cfg README.md LICENSE MANIFEST.in /epic_pl/
COPY src /epic_pl/src
# a machine without a GPU needs torch for processors alone, which is a tenth of the size:
#   --build-arg PIP_EXTRA_INDEX_URL=the index that torch names for it
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir "/epic_pl[demo,serve]" && rm -r /epic_pl
RUN useradd --create-home server && install -d -o server /home/server/.cache
USER server
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["epic-pl", "serve", "/model", "--host", "0.0.0.0"]
