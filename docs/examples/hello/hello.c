/* Greets, and says with which tag the greeting was stamped at build time. */
#include <stdio.h>

int main(int argc, char **argv)
{
    printf("%s, %s! (tag %s)\n", GREETING, argc > 1 ? argv[1] : "world", TAG);
    return 0;
}
