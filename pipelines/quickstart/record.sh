#!/bin/sh
# Records pipelines/quickstart/answers.jsonl again (some minutes on two cores).
# Usage: record.sh SmolLM2-135M-Instruct.gguf
set -eu
cd "$(dirname "$0")/../.."
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
go run ./cmd/pipe run pipelines/quickstart/record.hcl --store "$store" --var "teacher=${1:?give the path of SmolLM2-135M-Instruct as GGUF}"
cp "$store/journals/teacher.jsonl" pipelines/quickstart/answers.jsonl
