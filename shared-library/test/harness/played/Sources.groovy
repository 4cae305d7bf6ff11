package played

import groovy.transform.Memoized
import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.CodeVisitorSupport
import org.codehaus.groovy.ast.MethodNode
import org.codehaus.groovy.ast.expr.ClosureExpression
import org.codehaus.groovy.ast.expr.ConstructorCallExpression
import org.codehaus.groovy.ast.expr.MethodCallExpression
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.Phases

/** What a source of the library must not do, since the sandbox refuses it or a restart of Jenkins would break it. */
class Sources {
    private static final int MOST_LINES = 400
    private static final int MOST_LINES_OF_METHOD = 49

    /** Words that the sandbox refuses, or that hold what cannot be kept. */
    private static final Map<String, String> FORBIDDEN = [
        /\bSystem\./            : 'System',
        /\bnew\s+(URL|File|Thread|Random|Timer)\b/: 'files, sockets or threads of the controller',
        /\bThread\b/            : 'Thread',
        /\bJenkins\.|^import (hudson|jenkins)\./: 'the inside of Jenkins',
        /\brawBuild\b/          : 'rawBuild',
        /\bgetCauses\(|\.causes\b/: 'getCauses()',
        /=~|\bMatcher\b/        : 'a Matcher',
        /JsonSlurperClassic/    : 'JsonSlurperClassic, which the sandbox refuses',
        /MessageDigest/         : 'MessageDigest, which the sandbox refuses',
        /\bevaluate\(|\.execute\(|@Grab/: 'code from elsewhere',
        /\bprintln\b/           : 'println instead of echo',
        /\bstatic\s+(?!final\b)(?!.*\()/: 'a static field that can change',
    ]

    /** What may be called besides the library's own methods and steps: each is on the lists of Script Security. */
    private static final List<String> ALLOWED = [
        'add', 'addAll', 'cbrt', 'contains', 'containsKey', 'encode', 'floor', 'format', 'get', 'getBytes', 'getMessage',
        'getTime', 'indexOf', 'intdiv', 'isEmpty', 'join', 'keySet', 'length', 'matches', 'max', 'min', 'padRight', 'parseInt',
        'parseText', 'prettyPrint', 'put', 'replace', 'replaceAll', 'round', 'size', 'split', 'startsWith', 'subList',
        'substring', 'toJson', 'toString', 'trim',
    ]
    private static final List<String> ALLOWED_TO_MAKE = ['Date', 'JsonSlurper']
    private static final List<String> WITH_STEPS = ['script', 'session.script', 'script.currentBuild', 'session.script.currentBuild']

    /** Bodies of steps, and what takes such a body along. A closure anywhere else runs where no step may be called. */
    private static final List<String> TAKE_BODIES = ['withCredentials', 'timeout', 'within', 'guarded']

    static List<String> mistakes(File source, List<File> all) {
        List<String> found = []
        String text = source.getText('UTF-8')
        text.readLines().eachWithIndex { line, number ->
            String code = line.replaceFirst(/^\s*\/?\*.*/, '').replaceFirst(/\s\/\/ .*/, '')
            FORBIDDEN.findAll { code =~ it.key }.each { found << "line ${number + 1} uses ${it.value}".toString() }
            found.addAll(line ==~ /[\x00-\x7f]*/ ? [] : ["line ${number + 1} is not ASCII".toString()])
        }
        found.addAll(text.readLines().size() > MOST_LINES ? ['is too long'] : [])
        Set<String> kept = [] as Set
        all.each { kept.addAll(stepMethods(it)) }
        Set<String> own = all.collectMany { parsed(it) }.collectMany { [it.nameWithoutPackage] + it.methods*.name } as Set
        parsed(source).each {
            found.addAll(inClass(it, kept))
            found.addAll(outsideSandbox(it, own))
        }
        return found.collect { "${source.name}: ${it}".toString() }
    }

    /** `Client.ask`: the methods that may call a step, which no @NonCPS method may call. */
    private static List<String> stepMethods(File source) {
        return parsed(source).collectMany { type ->
            type.methods.findAll { !plain(it) }.collect { type.nameWithoutPackage + '.' + it.name }
        }
    }

    @Memoized
    private static List<ClassNode> parsed(File source) {
        CompilationUnit unit = new CompilationUnit(new CompilerConfiguration(sourceEncoding: 'UTF-8'))
        unit.addSource(source)
        unit.compile(Phases.CONVERSION)
        return unit.AST.classes
    }

    private static boolean plain(MethodNode method) {
        return method.annotations.any { it.classNode.nameWithoutPackage == 'NonCPS' }
    }

    private static List<String> inClass(ClassNode type, Set<String> kept) {
        List<String> found = []
        type.methods.each { method ->
            if (method.lastLineNumber - method.lineNumber + 1 > MOST_LINES_OF_METHOD) {
                found << "${method.name} is too long".toString()
            }
            method.code?.visit(new Visit(type.nameWithoutPackage, method.name, plain(method), kept, found))
        }
        type.declaredConstructors.each { it.code?.visit(new Visit(type.nameWithoutPackage, 'the constructor', true, kept, found)) }
        return found
    }

    private static List<String> outsideSandbox(ClassNode type, Set<String> own) {
        List<String> found = []
        (type.methods.findAll { !it.synthetic && it.lineNumber > 0 } + type.declaredConstructors).each { it.code?.visit(new Calls(own, found)) }
        return found
    }

    /** Calls of what the sandbox may not know. */
    private static class Calls extends CodeVisitorSupport {
        final Set<String> own
        final List<String> found

        Calls(Set<String> own, List<String> found) {
            this.own = own
            this.found = found
        }

        @Override
        void visitMethodCallExpression(MethodCallExpression call) {
            String name = call.methodAsString
            boolean body = call.implicitThis && name == 'work' // the body that a method was given
            boolean known = body || WITH_STEPS.contains(call.objectExpression.text) || own.contains(name) || ALLOWED.contains(name)
            found.addAll(known ? [] : ["line ${call.lineNumber}: whether the sandbox allows ${name} is not known".toString()])
            super.visitMethodCallExpression(call)
        }

        @Override
        void visitConstructorCallExpression(ConstructorCallExpression call) {
            String name = call.type.nameWithoutPackage
            boolean known = call.specialCall || own.contains(name) || ALLOWED_TO_MAKE.contains(name)
            found.addAll(known ? [] : ["line ${call.lineNumber}: whether the sandbox lets make a ${name} is not known".toString()])
            super.visitConstructorCallExpression(call)
        }
    }

    private static class Visit extends CodeVisitorSupport {
        final String type
        final String method
        final boolean plain
        final Set<String> kept
        final List<String> found
        private final List<ClosureExpression> bodies = []

        Visit(String type, String method, boolean plain, Set<String> kept, List<String> found) {
            this.type = type
            this.method = method
            this.plain = plain
            this.kept = kept
            this.found = found
        }

        @Override
        void visitMethodCallExpression(MethodCallExpression call) {
            String receiver = call.objectExpression.text
            String name = call.methodAsString
            if (plain && (receiver in ['script', 'session', 'client'] || calls(receiver, name))) {
                found << "${method} calls ${receiver}.${name}, where no step may be called".toString()
            }
            if (TAKE_BODIES.contains(name)) {
                bodies.addAll(call.arguments.expressions.findAll { it instanceof ClosureExpression })
            }
            super.visitMethodCallExpression(call)
        }

        private boolean calls(String receiver, String name) {
            return kept.contains((receiver == 'this' ? type : receiver) + '.' + name)
        }

        @Override
        void visitConstructorCallExpression(ConstructorCallExpression call) {
            if (!plain && call.type.nameWithoutPackage == 'JsonSlurper') {
                found << "${method} keeps a JsonSlurper across steps".toString()
            }
            super.visitConstructorCallExpression(call)
        }

        @Override
        void visitClosureExpression(ClosureExpression closure) {
            if (!bodies.any { it.is(closure) }) {
                found << "line ${closure.lineNumber}: a closure that is no body of a step".toString()
            }
            super.visitClosureExpression(closure)
        }
    }
}
