//go:build !unix

package artifact

import "os"

func umask() os.FileMode { return 0o022 }
