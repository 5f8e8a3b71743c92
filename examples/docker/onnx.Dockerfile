# An exported model by itself, in a small image without torch:
#   pip install 'epic_pl[onnx]'
#   epic-pl export runs/my --output exported
#   docker build -f examples/docker/onnx.Dockerfile -t my-model exported
#   docker run --rm --user "$(id -u)" -v "$PWD:/data" my-model --table rows.csv --image photo --text title --output predicted.csv
FROM python:3.12-slim
RUN pip install --no-cache-dir numpy onnxruntime pillow tokenizers
COPY . /model
USER 1000
WORKDIR /data
ENTRYPOINT ["python", "/model/predict.py"]
