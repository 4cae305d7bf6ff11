package jenkins

/** The `httpRequest` step as http_request 1.25 implements it, with a real request. */
class HttpRequest {
    private static final List<String> PARAMETERS = [
        'url', 'httpMode', 'contentType', 'requestBody', 'customHeaders', 'validResponseCodes', 'timeout', 'quiet',
        'authentication',
    ]

    /** `credentials`: the passwords by ID. The plugin sends one as Basic authentication, without being asked for it first. */
    static Response send(Map options, Map<String, String> credentials) {
        List<String> unknown = options.keySet().findAll { !PARAMETERS.contains(it) } as List
        if (unknown) {
            throw new IllegalArgumentException("httpRequest has no ${unknown.join(', ')}")
        }
        String password = credentials[options.authentication]
        if (password == null) {
            throw new IllegalStateException("Authentication '${options.authentication}' doesn't exist anymore")
        }
        Response response = exchange(options, 'Basic ' + ('tidegate:' + password).bytes.encodeBase64())
        if (options.validResponseCodes != '100:599' && response.status >= 400) {
            throw new AbortException("Fail: Status code ${response.status} is not in the accepted range")
        }
        return response
    }

    private static Response exchange(Map options, String authorization) {
        if (!(options.requestBody ==~ /\p{ASCII}*/)) {
            throw new IllegalArgumentException('the body must be ASCII, because the plugin chooses the encoding')
        }
        try {
            HttpURLConnection connection = (HttpURLConnection) new URL(options.url).openConnection()
            connection.requestMethod = options.httpMode
            connection.connectTimeout = connection.readTimeout = options.timeout * 1000
            connection.setRequestProperty('Content-Type', 'application/json')
            connection.setRequestProperty('Authorization', authorization)
            options.customHeaders.each { connection.setRequestProperty(it.name, it.value) }
            if (options.httpMode == 'POST') {
                connection.doOutput = true
                connection.outputStream.withStream { it.write(options.requestBody.getBytes('UTF-8')) }
            }
            int status = connection.responseCode
            InputStream body = status >= 400 ? connection.errorStream : connection.inputStream
            return new Response(status: status, content: body == null ? null : body.getText(charset(connection.contentType)))
        } catch (UnknownHostException ignored) {
            return new Response(status: 404, content: 'UnknownHostException as 404 Not Found')
        } catch (SocketTimeoutException | ConnectException problem) {
            return new Response(status: 408, content: "${problem.class}(${problem.message}) as 408 Request Timeout".toString())
        }
    }

    /** The declared charset, or that of the media type, or the controller's default, which can be any. */
    private static String charset(String contentType) {
        List<String> parts = (contentType ?: '').toLowerCase().split(';')*.trim()
        String declared = parts.find { it.startsWith('charset=') }
        if (declared != null) {
            return declared - 'charset='
        }
        return parts[0] == 'application/json' ? 'UTF-8' : 'ISO-8859-1'
    }

    static class Response implements Serializable {
        private static final long serialVersionUID = 1L
        int status
        String content
    }
}
