# make listen  a small installation that only denoises songs
# make demo    the whole idea on a generated corpus (or SONGS=dir NOISES=dir), below OUT; QUICK=1 a smaller one
# make app     a page in the browser that denoises a song
# make test    the test suite
# make lint    style checks
PYTHON ?= python3
OUT ?= demo
VENV := .venv
READY := $(VENV)/.ready
INSTALL := -m pip install --quiet --disable-pip-version-check
# Without an NVIDIA GPU, PyTorch's build for processors, which is a sixth of the size.
INDEX := $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu)

CHECK := $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	{ echo "error: expected Python >= 3.10, got $$($(PYTHON) --version): call make PYTHON=python3.11"; exit 2; }

.PHONY: listen demo app test lint setup
setup: $(READY)

listen:
	@$(CHECK)
	@echo "setting up .venv-listen: 0.3 GB on disk, about a minute"
	@$(PYTHON) -m venv .venv-listen && .venv-listen/bin/python $(INSTALL) -e .
	@echo "denoise a song, from any directory: '$(CURDIR)/.venv-listen/bin/song-denoise' song.mp3"

# Repeated only when the requirements change.
$(READY): requirements.txt $(wildcard requirements/*.txt)
	@echo "setting up $(VENV): 2 GB on disk, or 6 GB with a GPU; a few minutes"
	@$(CHECK)
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(INSTALL) $(INDEX) "$$(grep '^torch[<>=]' requirements/work.txt)"
	@$(VENV)/bin/python $(INSTALL) -r requirements.txt || { \
		echo "trying again without pesq, which needs a C compiler; tables will say that PESQ is missing"; \
		cat requirements/*.txt | grep -v "^pesq" > $(VENV)/without_pesq.txt && \
		$(VENV)/bin/python $(INSTALL) -r $(VENV)/without_pesq.txt; }
	@touch $@

demo: $(READY)
	@$(VENV)/bin/python -m common.demo --out "$(OUT)" $(if $(SONGS),--songs "$(SONGS)") $(if $(NOISES),--noises "$(NOISES)") $(if $(QUICK),--quick)

app: $(READY)
	@$(VENV)/bin/voila notebooks/denoising_app.ipynb

test: $(READY)
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	@$(VENV)/bin/ruff check .
