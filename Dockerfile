# The app for a host that runs containers, such as a Hugging Face Space (docs/hosting.md):
#
#     docker build -t knowledge-neuron-atlas . && docker run -p 8501:8501 knowledge-neuron-atlas
#
# TORCH is what pip installs first. The default brings CUDA along (some gigabytes); give the address of the wheel of
# PyTorch's CPU build instead:  --build-arg TORCH="torch @ https://…"
FROM python:3.11-slim

# Spaces run containers as user 1000.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
# Threads that share heaps leave less memory behind. A Space shows the app inside a page of another origin: the
# cookie that guards uploads has to reach it there.
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    STREAMLIT_SERVER_XSRF_COOKIE_SAME_SITE=none \
    KNOWLEDGE_NEURON_LIMITS=app/limits_demo.toml

ARG TORCH="torch==2.13.0"
RUN pip install --no-cache-dir "$TORCH"
COPY --chown=user . .
RUN pip install --no-cache-dir -r requirements.txt

EXPOSE 8501
# Not `streamlit run`: only uvicorn's own options refuse a large message before it has come, and too many
# connections of any kind.
CMD ["uvicorn", "app.hosted:app", "--host=0.0.0.0", "--port=8501", "--ws=websockets-sansio", \
     "--ws-max-size=500000", "--limit-concurrency=400", "--no-access-log"]
