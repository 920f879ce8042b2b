# make demo    the whole idea on a generated corpus (or SONGS=dir NOISES=dir), below OUT; QUICK=1 a smaller one
# make app     a page in the browser that denoises a song
# make test    the test suite
# make lint    style checks
PYTHON ?= python3
OUT ?= demo
VENV := .venv
READY := $(VENV)/.ready
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo app test lint setup
setup: $(READY)

# Repeated only when the requirements change.
$(READY): requirements.txt
	@echo "setting up $(VENV): downloads about 3 GB the first time, a few minutes"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "error: expected Python >= 3.10, got $$($(PYTHON) --version): call make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -r requirements.txt || { \
		echo "trying again without pesq, which needs a C compiler; tables will say that PESQ is missing"; \
		grep -v "^pesq" requirements.txt > $(VENV)/without_pesq.txt && $(INSTALL) -r $(VENV)/without_pesq.txt; }
	@touch $@

demo: $(READY)
	@$(VENV)/bin/python -m common.demo --out "$(OUT)" $(if $(SONGS),--songs "$(SONGS)") $(if $(NOISES),--noises "$(NOISES)") $(if $(QUICK),--quick)

app: $(READY)
	@$(VENV)/bin/voila notebooks/denoising_app.ipynb

test: $(READY)
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	@$(VENV)/bin/ruff check .
