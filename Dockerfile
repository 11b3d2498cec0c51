# The search page and the APIs of `pe serve`, on a CPU. compose.yaml starts it; EXTRAS chooses what is installed.
FROM python:3.13-slim-trixie AS build
ARG EXTRAS=search,fast,heic,raw
RUN python -m venv /opt/pe
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY perception_encoder perception_encoder
RUN /opt/pe/bin/pip install --no-cache-dir --no-compile --extra-index-url https://download.pytorch.org/whl/cpu ".[${EXTRAS}]"

FROM python:3.13-slim-trixie
COPY --from=build /opt/pe /opt/pe
RUN useradd --uid 1000 --no-create-home pe \
    && mkdir /photos /index /cache \
    && chown 1000:1000 /index /cache
# The cache holds downloaded weights, models compiled for this CPU, and settings. The model is fetched at the first start.
ENV PATH=/opt/pe/bin:$PATH \
    XDG_CACHE_HOME=/cache \
    XDG_CONFIG_HOME=/cache/config \
    HF_HOME=/cache/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    PE_MODEL=PE-Core-S16-384
USER 1000:1000
WORKDIR /photos
VOLUME ["/index", "/cache"]
EXPOSE 8000
HEALTHCHECK --start-period=10m --start-interval=5s --timeout=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["pe"]
# --lan: other machines reach the page with the key in PE_API_KEY; without one, a new key is made and printed at each start.
CMD ["serve", "/photos", "--index", "/index", "--api", "--lan"]
