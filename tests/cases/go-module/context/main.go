// Prints a name-based UUID, so that the module really is used.
package main

import (
	"fmt"

	"github.com/google/uuid"
)

func main() {
	fmt.Println(uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://sealwright.dev")))
}
