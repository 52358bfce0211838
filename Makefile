.PHONY: help check cuda

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile

check: ## what .ci/run checks
	.ci/run

cuda: ## out/pipe-cuda, the program with the CUDA backend
	bash gpu/build.sh
