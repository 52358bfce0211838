package main

import "context"

func runDiff(ctx context.Context, t *app, args []string) int { return exitUsage }
