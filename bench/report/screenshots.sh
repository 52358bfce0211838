#!/bin/sh
# Draws a report as people see it: light and dark on a desktop, light on a phone.
#
#   bench/report/screenshots.sh report.html out/
#
# Needs Chromium (or Chrome: set CHROMIUM). Checks of the page that need no
# browser are in runtime/report; this is for eyes.
set -eu
page=$(realpath "$1")
out=${2:-.}
mkdir -p "$out"
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)}
# A copy with the theme's button pressed, since a headless browser has no theme.
dark=$(mktemp --suffix=.html)
phone=$(mktemp --suffix=.html)
trap 'rm -f "$dark" "$phone"' EXIT
sed -e 's/id="theme-auto" checked/id="theme-auto"/' -e 's/id="theme-dark"/id="theme-dark" checked/' "$page" >"$dark"
# Headless windows are at least 500 pixels wide: the phone is a frame.
printf '<!DOCTYPE html><body style="margin:0"><iframe src="file://%s" style="border:0;width:390px;height:6000px"></iframe>' "$page" >"$phone"
shot() { # FILE WIDTH HEIGHT NAME
	"$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
		--window-size="$2,$3" --screenshot="$out/$4.png" "file://$1" >/dev/null 2>&1
	echo "$out/$4.png"
}
shot "$page" 1280 6000 light
shot "$dark" 1280 6000 dark
shot "$phone" 500 6000 phone
