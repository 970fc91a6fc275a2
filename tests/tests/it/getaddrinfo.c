/* Prints the addresses of a name, one a line, as this C library's resolver finds them. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *one;
	char text[128];

	if (argc != 2)
		return 2;
	int error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", argv[1], gai_strerror(error));
		return 1;
	}
	for (one = found; one; one = one->ai_next) {
		if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST))
			return 1;
		puts(text);
	}
	return 0;
}
