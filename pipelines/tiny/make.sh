#!/bin/sh
# Makes embedded://tiny again: training text, pretraining (about 25 minutes on
# two cores), and the files in model/tiny/files that go into the program.
set -eu
cd "$(dirname "$0")/../.."
go run ./pipelines/tiny/corpus -out pipelines/tiny/build
go run ./cmd/pipe run pipelines/tiny/tiny.hcl
weights=$(find pipelines/tiny/.pipe/objects -path '*/safetensors/model.safetensors' | xargs ls -t | head -n 1)
cp "$(dirname "$weights")"/*.json model/tiny/files/
cp "$weights" model/tiny/files/
chmod 644 model/tiny/files/*
