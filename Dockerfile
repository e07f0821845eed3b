# The command line of the package:
#   docker build -t crackutils .
#   docker run -v "$PWD/photos:/photos" crackutils inspect /photos --out /photos/report
#   docker run -p 127.0.0.1:7860:7860 crackutils app --host 0.0.0.0
FROM python:3.12-slim

COPY pyproject.toml LICENSE README.md /src/
COPY crackutils /src/crackutils
RUN pip install --no-cache-dir "/src[app]"

# what a photo or a network leaves for the next run; mount a volume there to keep it
ENV CRACKUTILS_DATA_DIR=/cache
RUN useradd --create-home --uid 1000 crackutils && mkdir -m 777 /cache && mkdir /photos
USER 1000
WORKDIR /photos

ENTRYPOINT ["crackutils"]
CMD ["--help"]
