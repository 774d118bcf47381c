# make demo   draws videos, preprocesses, trains, evaluates: the whole way in minutes
# make test   the quick tests     make test-all   those marked slow as well
# make bench  measurements, ending in one table (runs/bench.md)    make lint  ruff
PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
# where real videos for tests and measurements are; they skip where it is empty
REAL_CLIPS ?=
export REAL_CLIPS
export TF_CPP_MIN_LOG_LEVEL ?= 3

DEMO_DATA := data/demo
DEMO_RUNS := runs/demo
DEMO_TRAIN := $(PY) train.py --data_dir=$(DEMO_DATA)/preprocessed --num_segments=12 \
	--spatial_weights=$(DEMO_RUNS)/features --motion_weights=$(DEMO_RUNS)/features \
	--lstm_units=256,128 --max_steps=450
DEMO_EVALUATE := $(PY) evaluate.py

.PHONY: install demo test test-all lint bench clean-demo

install: .venv/installed

.venv/installed: requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt -r tests/requirements.txt
	@$(PY) -c 'import cv2' || { echo 'OpenCV needs system libraries; on Debian: \
		apt-get install libgl1 libglib2.0-0' >&2; exit 1; }
	@touch $@

demo: install
	$(PY) -m data.synthetic.draw --out=$(DEMO_DATA)/videos
	$(PY) optical_flow.py --video_dir=$(DEMO_DATA)/videos \
		--data_dir=$(DEMO_DATA)/preprocessed --frame_size=64 --preview=4
	$(PY) train.py --stage=features --data_dir=$(DEMO_DATA)/preprocessed \
		--train_dir=$(DEMO_RUNS)/features --num_segments=12 \
		--spatial_weights=random --motion_weights=random
	$(DEMO_TRAIN) --train_dir=$(DEMO_RUNS)/no_lstm --branches=fusion
	$(DEMO_EVALUATE) --train_dir=$(DEMO_RUNS)/no_lstm
	$(DEMO_TRAIN) --train_dir=$(DEMO_RUNS)/no_motion --branches=spatial_lstm
	$(DEMO_EVALUATE) --train_dir=$(DEMO_RUNS)/no_motion
	$(DEMO_TRAIN) --train_dir=$(DEMO_RUNS)/no_spatial --branches=motion_lstm
	$(DEMO_EVALUATE) --train_dir=$(DEMO_RUNS)/no_spatial
	$(DEMO_TRAIN) --train_dir=$(DEMO_RUNS)/full
	$(DEMO_EVALUATE) --train_dir=$(DEMO_RUNS)/full \
		--compare=$(DEMO_RUNS)/no_lstm,$(DEMO_RUNS)/no_motion,$(DEMO_RUNS)/no_spatial
	$(PY) -m data.synthetic.accuracies --runs=$(DEMO_RUNS) --data=$(DEMO_DATA)/preprocessed

test: install
	$(BIN)/pytest

test-all: install
	$(BIN)/pytest -m ''

lint: install
	$(BIN)/ruff check .

bench: export BENCH_TABLE := runs/bench.md
bench: demo
	@$(PY) -c 'from tests.bench import table; print(table.HEAD)' > $(BENCH_TABLE)
	$(PY) -m tests.bench.bench_optical_flow $(if $(REAL_CLIPS),--clips=$(REAL_CLIPS))
	$(PY) -m tests.bench.bench_codecs $(if $(REAL_CLIPS),--clips=$(REAL_CLIPS))
	$(PY) -m tests.bench.bench_input $(if $(REAL_CLIPS),--clips=$(REAL_CLIPS))
	$(PY) -m tests.bench.bench_weights
	$(PY) -m tests.bench.bench_vgg
	$(PY) -m tests.bench.bench_training
	$(PY) -m tests.bench.bench_profile
	$(PY) -m tests.bench.bench_torch
	$(PY) -m tests.bench.bench_growth
	$(PY) -m tests.bench.bench_cluster --data_dir=$(DEMO_DATA)/preprocessed
	$(PY) -m tests.bench.bench_evaluate --train_dir=$(DEMO_RUNS)/full \
		--video=$(DEMO_DATA)/videos
	@echo; cat $(BENCH_TABLE)

clean-demo:
	rm -rf $(DEMO_DATA) $(DEMO_RUNS)
