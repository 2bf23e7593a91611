// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest agent: runs commands, moves files and carries TPM traffic for the
 * host, over one virtio-serial port. It is PID 1 of the guest.
 *
 * Frame, both ways, all integers big-endian:
 *
 *	magic     u32  FRAME_MAGIC
 *	version   u8   FRAME_VERSION
 *	type      u8   enum request or enum reply
 *	reserved  u16  0
 *	sequence  u32  chosen by the host; a reply repeats its request's
 *	length    u32  bytes of payload
 *	crc       u32  CRC-32 (IEEE 802.3) of the 16 bytes above and the payload
 *	payload
 *
 * A request is answered by any number of OUTPUT and ERRORS frames, then one END
 * frame with an s32: a negative errno, or what the request defines. Requests:
 *
 *	HELLO      -                                  END 0, after OUTPUT
 *	EXEC       u32 limit in ms, u32 argc,
 *	           argc strings, stdin                END status (below)
 *	READ       string path                        END 0, after OUTPUT
 *	WRITE      u32 mode, u32 append, string path,
 *	           data                               END 0
 *	TPM        command                            END 0, after OUTPUT
 *	TPM_CLOSE  -                                  END 0
 *
 * Strings end with NUL. EXEC ends with the exit status, 256 plus the number of
 * the signal that killed the command, or -ETIMEDOUT when the limit did.
 *
 * One HELLO frame with sequence 0 is sent unasked at the start. The payload is
 * the boot ID, the kernel release, its banner, its command line and the uptime,
 * each as the kernel shows it in /proc and ended by NUL. As many NULs as the
 * longest reply go before it: they complete the frame that a kernel left
 * unfinished when kexec ended it, so that its CRC exposes it.
 */

#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/types.h>

#define PORT_NAME	"imakexec.agent"
#define PORT_CLASS	"/sys/class/virtio-ports"
#define PORT_WAIT_MS	10000

#define FRAME_MAGIC	0x494d4b58	/* "IMKX" */
#define FRAME_VERSION	1
#define HEADER_SIZE	20
#define CRC_OFFSET	16

/* Requests may carry a file's contents; replies are cut into chunks. */
#define REQUEST_MAX	(1024 * 1024)
#define CHUNK_MAX	(32 * 1024)

/* Largest TPM command and response (TPM_BUFSIZE in drivers/char/tpm/tpm.h). */
#define TPM_MAX		4096

#define ARGC_MAX	256

enum request {
	REQUEST_HELLO = 1,
	REQUEST_EXEC,
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_TPM,
	REQUEST_TPM_CLOSE,
};

enum reply {
	REPLY_HELLO = 0x80,
	REPLY_OUTPUT,
	REPLY_ERRORS,
	REPLY_END,
};

struct frame {
	__u8 type;
	__u32 sequence;
	__u32 length;
	char *payload;
};

/* What is left of a request's payload. */
struct cursor {
	char *at;
	char *end;
};

struct child {
	pid_t pid;
	bool running;
	int status;	/* as from waitpid() */
	int in;		/* our ends of its pipes, -1 when closed */
	int out;
	int err;
};

static int port;
static const char *tpm_path = "/dev/tpmrm0";
static int tpm = -1;

/* SIGCHLD is blocked except in ppoll(), so it is never missed nor in the way. */
static sigset_t polling_mask;

static char input[HEADER_SIZE + REQUEST_MAX];
static size_t input_length;

static void die(const char *what)
{
	fprintf(stderr, "imakexec: agent: %s: %s\n", what, strerror(errno));
	exit(1);
}

static __u32 get_be32(const char *at)
{
	const __u8 *byte = (const __u8 *)at;

	return (__u32)byte[0] << 24 | byte[1] << 16 | byte[2] << 8 | byte[3];
}

static void put_be32(char *at, __u32 value)
{
	at[0] = value >> 24;
	at[1] = value >> 16;
	at[2] = value >> 8;
	at[3] = value;
}

static __u32 crc32(__u32 crc, const char *data, size_t length)
{
	/* The remainders of the sixteen half bytes, polynomial 0xedb88320. */
	static const __u32 table[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
		0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
		0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};

	crc = ~crc;
	while (length--) {
		crc ^= (__u8)*data++;
		crc = table[crc & 15] ^ crc >> 4;
		crc = table[crc & 15] ^ crc >> 4;
	}
	return ~crc;
}

static __u32 frame_crc(const char *header, const char *payload, size_t length)
{
	return crc32(crc32(0, header, CRC_OFFSET), payload, length);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Write everything; 0 or a negative errno. */
static int write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t written = write(fd, data, length);

		if (written < 0)
			return -errno;
		data += written;
		length -= written;
	}
	return 0;
}

/* Read until the buffer is full or the file ends; bytes or a negative errno. */
static ssize_t read_full(int fd, char *buffer, size_t size)
{
	size_t length = 0;

	while (length < size) {
		ssize_t got = read(fd, buffer + length, size - length);

		if (got < 0)
			return -errno;
		if (!got)
			break;
		length += got;
	}
	return length;
}

/*
 * Frames
 */

static void send_frame(__u8 type, __u32 sequence, const char *payload,
		       size_t length)
{
	static char frame[HEADER_SIZE + CHUNK_MAX];
	int ret;

	put_be32(frame, FRAME_MAGIC);
	put_be32(frame + 4, FRAME_VERSION << 24 | type << 16);
	put_be32(frame + 8, sequence);
	put_be32(frame + 12, length);
	put_be32(frame + CRC_OFFSET, frame_crc(frame, payload, length));
	memcpy(frame + HEADER_SIZE, payload, length);
	ret = write_all(port, frame, HEADER_SIZE + length);
	if (ret < 0) {
		errno = -ret;
		die("cannot write to the port");
	}
}

static void send_end(__u32 sequence, int value)
{
	char payload[4];

	put_be32(payload, value);
	send_frame(REPLY_END, sequence, payload, sizeof(payload));
}

static void drop_input(size_t length)
{
	input_length -= length;
	memmove(input, input + length, input_length);
}

/* Throw away what cannot be the beginning of a frame. */
static void skip_to_magic(void)
{
	char magic[4];
	size_t at;

	put_be32(magic, FRAME_MAGIC);
	for (at = 0; at < input_length; at++) {
		size_t left = input_length - at;

		if (!memcmp(input + at, magic, left < 4 ? left : 4))
			break;
	}
	if (at)
		drop_input(at);
}

/* Answer a frame that is none, and look for the next one inside it. */
static void refuse_frame(int error)
{
	send_end(get_be32(input + 8), error);
	drop_input(4);
}

/* Find a whole and sound frame in the input; it stays there until dropped. */
static bool parse_frame(struct frame *frame)
{
	for (;;) {
		skip_to_magic();
		if (input_length < HEADER_SIZE)
			return false;
		frame->type = input[5];
		frame->sequence = get_be32(input + 8);
		frame->length = get_be32(input + 12);
		frame->payload = input + HEADER_SIZE;
		if (input[4] != FRAME_VERSION) {
			refuse_frame(-EPROTO);
			continue;
		}
		if (frame->length > REQUEST_MAX) {
			refuse_frame(-EMSGSIZE);
			continue;
		}
		if (input_length < HEADER_SIZE + frame->length)
			return false;
		if (get_be32(input + CRC_OFFSET) ==
		    frame_crc(input, frame->payload, frame->length))
			return true;
		refuse_frame(-EBADMSG);
	}
}

/*
 * Payloads
 */

static bool get_number(struct cursor *cursor, __u32 *value)
{
	if (cursor->end - cursor->at < 4)
		return false;
	*value = get_be32(cursor->at);
	cursor->at += 4;
	return true;
}

static bool get_string(struct cursor *cursor, char **string)
{
	char *end = memchr(cursor->at, 0, cursor->end - cursor->at);

	if (!end)
		return false;
	*string = cursor->at;
	cursor->at = end + 1;
	return true;
}

/*
 * Processes
 */

static void on_child(int number)
{
	(void)number;	/* its only purpose is to end ppoll() */
}

/* Collect every dead child; PID 1 inherits those of others. */
static void reap(struct child *child)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (child && pid == child->pid) {
			child->running = false;
			child->status = status;
		}
	}
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Three pipes, {read end, write end} each, closed by exec. */
static int open_pipes(int pipes[3][2])
{
	int i;

	memset(pipes, -1, 3 * sizeof(*pipes));
	for (i = 0; i < 3; i++) {
		if (pipe2(pipes[i], O_CLOEXEC))
			return -errno;
	}
	return 0;
}

static void close_pipes(int pipes[3][2])
{
	int i;

	for (i = 0; i < 3; i++) {
		close_fd(&pipes[i][0]);
		close_fd(&pipes[i][1]);
	}
}

/* Start the command in a process group of its own, on the pipes' far ends. */
static int spawn_on_pipes(pid_t *pid, char **argv, int pipes[3][2])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, ignored;
	int ret;

	sigemptyset(&none);
	sigemptyset(&ignored);
	sigaddset(&ignored, SIGPIPE);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP |
				 POSIX_SPAWN_SETSIGMASK |
				 POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &ignored);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipes[0][0], 0);
	posix_spawn_file_actions_adddup2(&actions, pipes[1][1], 1);
	posix_spawn_file_actions_adddup2(&actions, pipes[2][1], 2);
	ret = posix_spawnp(pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -ret;
}

static int start_child(struct child *child, char **argv)
{
	int pipes[3][2];
	int ret;

	ret = open_pipes(pipes);
	if (!ret)
		ret = spawn_on_pipes(&child->pid, argv, pipes);
	if (ret) {
		close_pipes(pipes);
		return ret;
	}
	close(pipes[0][0]);
	close(pipes[1][1]);
	close(pipes[2][1]);
	child->in = pipes[0][1];
	child->out = pipes[1][0];
	child->err = pipes[2][0];
	fcntl(child->in, F_SETFL, O_NONBLOCK);
	child->running = true;
	return 0;
}

/* Hand the command what fits into the pipe of its standard input. */
static void feed(struct child *child, struct cursor *data)
{
	ssize_t written = write(child->in, data->at, data->end - data->at);

	if (written > 0)
		data->at += written;
	else if (errno != EAGAIN)
		data->at = data->end;	/* it does not want to read */
	if (data->at == data->end)
		close_fd(&child->in);
}

/* Send one chunk of what the command wrote; close the pipe at its end. */
static ssize_t forward(int *fd, __u8 type, __u32 sequence)
{
	static char chunk[CHUNK_MAX];
	ssize_t got = read(*fd, chunk, sizeof(chunk));

	if (got > 0)
		send_frame(type, sequence, chunk, got);
	else
		close_fd(fd);
	return got;
}

/*
 * Send what is in the pipe now. Its end may never come: a process that the
 * command left in the background can hold it open.
 */
static void drain(int *fd, __u8 type, __u32 sequence)
{
	int left = 0;

	if (*fd >= 0)
		ioctl(*fd, FIONREAD, &left);
	while (left > 0) {
		ssize_t got = forward(fd, type, sequence);

		if (got <= 0)
			break;
		left -= got;
	}
	close_fd(fd);
}

/* Serve the pipes until the command has ended; whether the limit ended it. */
static bool attend(struct child *child, struct cursor *data, __u32 limit_ms,
		   __u32 sequence)
{
	long long end = now_ms() + limit_ms;
	bool expired = false;

	if (data->at == data->end)
		close_fd(&child->in);
	while (child->running) {
		struct pollfd fds[3] = {
			{ .fd = child->in, .events = POLLOUT },
			{ .fd = child->out, .events = POLLIN },
			{ .fd = child->err, .events = POLLIN },
		};
		long long left = end - now_ms();
		struct timespec wait;

		if (left <= 0 && !expired) {
			kill(-child->pid, SIGKILL);
			expired = true;
		}
		/* A killed command ends by itself: wait for its SIGCHLD. */
		wait.tv_sec = left / 1000;
		wait.tv_nsec = left % 1000 * 1000000;
		if (ppoll(fds, 3, expired ? NULL : &wait, &polling_mask) > 0) {
			if (fds[0].revents)
				feed(child, data);
			if (fds[1].revents)
				forward(&child->out, REPLY_OUTPUT, sequence);
			if (fds[2].revents)
				forward(&child->err, REPLY_ERRORS, sequence);
		}
		reap(child);
	}
	return expired;
}

static int end_value(int status)
{
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status) :
				     WEXITSTATUS(status);
}

/*
 * Requests: each returns the value of the END frame
 */

static int handle_exec(struct cursor *payload, __u32 sequence)
{
	char *argv[ARGC_MAX + 1];
	struct child child = { 0 };
	__u32 limit_ms, argc, i;
	bool expired;
	int ret;

	if (!get_number(payload, &limit_ms) || !get_number(payload, &argc))
		return -EINVAL;
	if (!argc || argc > ARGC_MAX)
		return -E2BIG;
	for (i = 0; i < argc; i++) {
		if (!get_string(payload, &argv[i]))
			return -EINVAL;
	}
	argv[argc] = NULL;

	ret = start_child(&child, argv);
	if (ret)
		return ret;
	expired = attend(&child, payload, limit_ms, sequence);
	close_fd(&child.in);
	drain(&child.out, REPLY_OUTPUT, sequence);
	drain(&child.err, REPLY_ERRORS, sequence);
	return expired ? -ETIMEDOUT : end_value(child.status);
}

/* Files in /proc, sysfs and securityfs do not tell their size: read to EOF. */
static int send_file(const char *path, __u32 sequence)
{
	static char chunk[CHUNK_MAX];
	ssize_t got;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while ((got = read_full(fd, chunk, sizeof(chunk))) > 0)
		send_frame(REPLY_OUTPUT, sequence, chunk, got);
	close(fd);
	return got;
}

static int handle_read(struct cursor *payload, __u32 sequence)
{
	char *path;

	if (!get_string(payload, &path))
		return -EINVAL;
	return send_file(path, sequence);
}

static int handle_write(struct cursor *payload)
{
	__u32 mode, append;
	char *path;
	int fd, ret;

	if (!get_number(payload, &mode) || !get_number(payload, &append) ||
	    !get_string(payload, &path))
		return -EINVAL;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC |
		  (append ? O_APPEND : O_TRUNC), mode);
	if (fd < 0)
		return -errno;
	ret = write_all(fd, payload->at, payload->end - payload->at);
	if (close(fd) && !ret)
		ret = -errno;
	return ret;
}

/*
 * The resource manager ties objects to the open file: it stays open from one
 * command to the next, until the host asks otherwise.
 */
static int handle_tpm(struct cursor *payload, __u32 sequence)
{
	ssize_t length = payload->end - payload->at;
	char response[TPM_MAX];
	ssize_t got;

	if (tpm < 0)
		tpm = open(tpm_path, O_RDWR | O_CLOEXEC);
	if (tpm < 0)
		return -errno;
	/* One write is one command. */
	got = write(tpm, payload->at, length);
	if (got != length)
		return got < 0 ? -errno : -EIO;
	got = read(tpm, response, sizeof(response));
	if (got < 0)
		return -errno;
	send_frame(REPLY_OUTPUT, sequence, response, got);
	return 0;
}

static int send_hello(__u8 type, __u32 sequence)
{
	static const char *const paths[] = {
		"/proc/sys/kernel/random/boot_id",
		"/proc/sys/kernel/osrelease",
		"/proc/version",
		"/proc/cmdline",
		"/proc/uptime",
	};
	static char payload[CHUNK_MAX];
	size_t length = 0, i;

	for (i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		ssize_t got;

		if (fd < 0)
			return -errno;
		got = read_full(fd, payload + length,
				sizeof(payload) - length - 1);
		close(fd);
		if (got < 0)
			return got;
		length += got;
		payload[length++] = 0;
	}
	send_frame(type, sequence, payload, length);
	return 0;
}

static int handle(const struct frame *frame)
{
	struct cursor payload = {
		.at = frame->payload,
		.end = frame->payload + frame->length,
	};

	switch (frame->type) {
	case REQUEST_HELLO:
		return send_hello(REPLY_OUTPUT, frame->sequence);
	case REQUEST_EXEC:
		return handle_exec(&payload, frame->sequence);
	case REQUEST_READ:
		return handle_read(&payload, frame->sequence);
	case REQUEST_WRITE:
		return handle_write(&payload);
	case REQUEST_TPM:
		return handle_tpm(&payload, frame->sequence);
	case REQUEST_TPM_CLOSE:
		close_fd(&tpm);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static void serve(void)
{
	struct pollfd fd = { .fd = port, .events = POLLIN };
	struct frame frame;

	for (;;) {
		ssize_t got;

		reap(NULL);
		if (ppoll(&fd, 1, NULL, &polling_mask) < 0)
			continue;
		got = read(port, input + input_length,
			   sizeof(input) - input_length);
		if (got <= 0)
			die("the host closed the port");
		input_length += got;
		while (parse_frame(&frame)) {
			send_end(frame.sequence, handle(&frame));
			drop_input(HEADER_SIZE + frame.length);
		}
	}
}

/*
 * The port
 */

/* Whether the port of this name in sysfs (vport0p1) is ours. */
static bool is_our_port(const char *device)
{
	char path[512], name[64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), PORT_CLASS "/%s/name", device);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = read_full(fd, name, sizeof(name));
	close(fd);
	return got == sizeof(PORT_NAME) &&
	       !memcmp(name, PORT_NAME "\n", sizeof(PORT_NAME));
}

static int open_our_port(void)
{
	struct dirent *entry;
	char path[512];
	int fd = -1;
	DIR *dir;

	dir = opendir(PORT_CLASS);
	if (!dir)
		return -1;
	while (fd < 0 && (entry = readdir(dir))) {
		if (!is_our_port(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR);
	}
	closedir(dir);
	return fd;
}

/* The driver learns the names of its ports some time after it has bound. */
static int wait_for_port(void)
{
	long long end = now_ms() + PORT_WAIT_MS;
	int fd;

	while ((fd = open_our_port()) < 0 && now_ms() < end)
		poll(NULL, 0, 5);
	return fd;
}

static void greet(void)
{
	static const char padding[HEADER_SIZE + CHUNK_MAX];
	int ret;

	ret = write_all(port, padding, sizeof(padding));
	if (!ret)
		ret = send_hello(REPLY_HELLO, 0);
	if (ret) {
		errno = -ret;
		die("cannot say hello to the host");
	}
}

static void prepare_signals(void)
{
	struct sigaction action = { .sa_handler = on_child };
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &polling_mask);
	sigdelset(&polling_mask, SIGCHLD);
	sigaction(SIGCHLD, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* agent [DESCRIPTOR [TPM]]: not the guest's devices, for tests on a host. */
int main(int argc, char **argv)
{
	port = argc > 1 ? atoi(argv[1]) : wait_for_port();
	if (fcntl(port, F_SETFD, FD_CLOEXEC))
		die("cannot open the port " PORT_NAME);
	if (argc > 2)
		tpm_path = argv[2];
	prepare_signals();
	greet();
	serve();
	return 0;
}
