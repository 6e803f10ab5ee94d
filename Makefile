# make up     set up, then run the whole gateway in the foreground
# make test   set up, then run all tests
# make lint   style and types
# make bench  measure this machine (docs/benchmarks.md)
# make lock   renew the pinned dependencies

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a Debian machine as root, `make test` installs the programs that tests drive; elsewhere such tests skip.
TEST_PACKAGES := postfix swaks postgresql redis-server curl jq strace nodejs npm haproxy openssl gnupg \
	libmail-srs-perl libmail-dkim-perl libnet-dns-perl libsasl2-modules opendkim chromium spamassassin spamd rspamd \
	clamav-daemon
BENCH_PACKAGES := apache2-utils
TEST_PROGRAMS := postfix swaks initdb redis-server curl jq strace node npm haproxy openssl gpg spamd rspamd clamd opendkim chromium
PYTEST_ARGS ?= -n 2

.PHONY: up test lint bench lock clean programs

up: $(VENV)/.runtime
	@exec $(BIN)/pillarbox up

test: $(VENV)/.dev programs
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev programs
	@sh deploy/test-programs.sh ab "$(BENCH_PACKAGES)"
	$(BIN)/python -m bench
	$(BIN)/python -m bench.sending

$(VENV)/.runtime: requirements.lock pyproject.toml
	@sh deploy/make-venv.sh $(PYTHON) $(VENV) requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml
	@sh deploy/make-venv.sh $(PYTHON) $(VENV) requirements-dev.lock
	@touch $@ $(VENV)/.runtime

programs:
	@sh deploy/test-programs.sh "$(TEST_PROGRAMS)" "$(TEST_PACKAGES)"

# No index addresses in the lock files: they say what, not from where.
LOCK := $(BIN)/uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-header -q
lock: $(VENV)/.dev
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
