package jenkins

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

/** Finds what the sandbox refuses or what a restart of Jenkins would break in a source file of the library. */
class SourceRules {
    private static final int MAX_LINES = 400
    private static final int MAX_METHOD_LINES = 49

    /** Words that the sandbox refuses, or types that cannot be saved. */
    private static final Map<String, String> FORBIDDEN = [
        /\bSystem\./            : 'System',
        /\bnew\s+(URL|File|Thread|Random|Timer)\b/: 'files, sockets or threads of the controller',
        /\bThread\b/            : 'Thread',
        /\bJenkins\.|^import (hudson|jenkins)\./: 'internals of Jenkins',
        /\brawBuild\b/          : 'rawBuild',
        /\bgetCauses\(|\.causes\b/: 'getCauses()',
        /=~|\bMatcher\b/        : 'a Matcher',
        /JsonSlurperClassic/    : 'JsonSlurperClassic, which the sandbox refuses',
        /MessageDigest/         : 'MessageDigest, which the sandbox refuses',
        /\bevaluate\(|\.execute\(|@Grab/: 'external code',
        /\bprintln\b/           : 'println instead of echo',
        /\.description\s*=|setDescription/: 'the description of the build, which the service alone writes',
        /\bwithCredentials\b/   : 'withCredentials, which hangs or fails when the controller is killed inside',
        /\bstatic\s+(?!final\b)(?!.*\()/: 'a static field that can change',
    ]

    /** Methods that may be called besides the library's own methods and steps. All are on Script Security's lists. */
    private static final List<String> ALLOWED = [
        'add', 'addAll', 'contains', 'containsKey', 'encode', 'get', 'getMessage',
        'getTime', 'indexOf', 'intdiv', 'isEmpty', 'join', 'keySet', 'length', 'matches', 'max', 'min', 'padRight', 'parseInt',
        'parseText', 'prettyPrint', 'put', 'replace', 'replaceAll', 'round', 'size', 'split', 'startsWith', 'subList',
        'substring', 'toJson', 'toString', 'trim',
    ]
    private static final List<String> ALLOWED_TYPES = ['Date', 'JsonSlurper']
    private static final List<String> WITH_STEPS = ['script', 'session.script', 'script.currentBuild', 'session.script.currentBuild']

    /** Steps that run in the background, which a restart interrupts: only where they are repeated. */
    private static final Map<String, List<String>> INTERRUPTED = [
        httpRequest: ['Client'], readFile: ['Workspace'], readTrusted: ['Workspace'], writeFile: ['Workspace'],
        archiveArtifacts: ['Workspace'],
    ]
    private static final List<String> RESUMED = ['echo', 'error', 'unstable', 'sleep', 'timeout', 'input', 'milestone', 'string']

    /** Steps and methods that take a body. A closure anywhere else runs where no step may be called. */
    private static final List<String> WITH_BODY = ['timeout', 'handlingAbort', 'repeating']

    static List<String> mistakes(File source, List<File> all) {
        List<String> mistakes = []
        String text = source.getText('UTF-8')
        text.readLines().eachWithIndex { line, number ->
            String code = line.replaceFirst(/^\s*\/?\*.*/, '').replaceFirst(/\s\/\/ .*/, '')
            FORBIDDEN.findAll { code =~ it.key }.each { mistakes << "line ${number + 1} uses ${it.value}".toString() }
            mistakes.addAll(line ==~ /[\x00-\x7f]*/ ? [] : ["line ${number + 1} is not ASCII".toString()])
        }
        mistakes.addAll(text.readLines().size() > MAX_LINES ? ['is too long'] : [])
        Set<String> stepCalls = [] as Set
        all.each { stepCalls.addAll(stepMethods(it)) }
        Set<String> own = all.collectMany { parsed(it) }.collectMany { [it.nameWithoutPackage] + it.methods*.name } as Set
        parsed(source).each {
            mistakes.addAll(inClass(it, stepCalls))
            mistakes.addAll(outsideSandbox(it, own))
        }
        return mistakes.collect { "${source.name}: ${it}".toString() }
    }

    /** `Client.request`: the methods that may call a step. A @NonCPS method must not call them. */
    private static List<String> stepMethods(File source) {
        return parsed(source).collectMany { type ->
            type.methods.findAll { !nonCps(it) }.collect { type.nameWithoutPackage + '.' + it.name }
        }
    }

    @Memoized
    private static List<ClassNode> parsed(File source) {
        CompilationUnit unit = new CompilationUnit(new CompilerConfiguration(sourceEncoding: 'UTF-8'))
        unit.addSource(source)
        unit.compile(Phases.CONVERSION)
        return unit.AST.classes
    }

    private static boolean nonCps(MethodNode method) {
        return method.annotations.any { it.classNode.nameWithoutPackage == 'NonCPS' }
    }

    private static List<String> inClass(ClassNode type, Set<String> stepCalls) {
        List<String> mistakes = []
        type.methods.each { method ->
            if (method.lastLineNumber - method.lineNumber + 1 > MAX_METHOD_LINES) {
                mistakes << "${method.name} is too long".toString()
            }
            method.code?.visit(new CpsVisitor(type.nameWithoutPackage, method.name, nonCps(method), stepCalls, mistakes))
        }
        type.declaredConstructors.each { it.code?.visit(new CpsVisitor(type.nameWithoutPackage, 'the constructor', true, stepCalls, mistakes)) }
        return mistakes
    }

    private static List<String> outsideSandbox(ClassNode type, Set<String> own) {
        List<String> mistakes = []
        (type.methods.findAll { !it.synthetic && it.lineNumber > 0 } + type.declaredConstructors).each { it.code?.visit(new SandboxVisitor(own, mistakes)) }
        return mistakes
    }

    /** Finds calls that are not known to be allowed in the sandbox. */
    private static class SandboxVisitor extends CodeVisitorSupport {
        final Set<String> own
        final List<String> mistakes

        SandboxVisitor(Set<String> own, List<String> mistakes) {
            this.own = own
            this.mistakes = mistakes
        }

        @Override
        void visitMethodCallExpression(MethodCallExpression call) {
            String name = call.methodAsString
            boolean body = call.implicitThis && name == 'work' // the body passed to a method
            boolean known = body || WITH_STEPS.contains(call.objectExpression.text) || own.contains(name) || ALLOWED.contains(name)
            mistakes.addAll(known ? [] : ["line ${call.lineNumber}: calls ${name}, which is not on the list of methods that the sandbox allows".toString()])
            super.visitMethodCallExpression(call)
        }

        @Override
        void visitConstructorCallExpression(ConstructorCallExpression call) {
            String name = call.type.nameWithoutPackage
            boolean known = call.specialCall || own.contains(name) || ALLOWED_TYPES.contains(name)
            mistakes.addAll(known ? [] : ["line ${call.lineNumber}: creates a ${name}, which is not on the list of types that the sandbox allows".toString()])
            super.visitConstructorCallExpression(call)
        }
    }

    private static class CpsVisitor extends CodeVisitorSupport {
        final String type
        final String method
        final boolean nonCps
        final Set<String> stepCalls
        final List<String> mistakes
        private final List<ClosureExpression> bodies = []

        CpsVisitor(String type, String method, boolean nonCps, Set<String> stepCalls, List<String> mistakes) {
            this.type = type
            this.method = method
            this.nonCps = nonCps
            this.stepCalls = stepCalls
            this.mistakes = mistakes
        }

        @Override
        void visitMethodCallExpression(MethodCallExpression call) {
            String receiver = call.objectExpression.text
            String name = call.methodAsString
            if (nonCps && (receiver in ['script', 'session', 'client'] || calls(receiver, name))) {
                mistakes << "${method} calls ${receiver}.${name}, but it must not call a step".toString()
            }
            if (['script', 'session.script'].contains(receiver) && !RESUMED.contains(name) && !INTERRUPTED[name]?.contains(type)) {
                mistakes << "line ${call.lineNumber}: the step ${name} is not known to survive a restart in ${type}".toString()
            }
            if (WITH_BODY.contains(name)) {
                bodies.addAll(call.arguments.expressions.findAll { it instanceof ClosureExpression })
            }
            super.visitMethodCallExpression(call)
        }

        private boolean calls(String receiver, String name) {
            return stepCalls.contains((receiver == 'this' ? type : receiver) + '.' + name)
        }

        @Override
        void visitConstructorCallExpression(ConstructorCallExpression call) {
            if (!nonCps && call.type.nameWithoutPackage == 'JsonSlurper') {
                mistakes << "${method} holds a JsonSlurper across steps".toString()
            }
            super.visitConstructorCallExpression(call)
        }

        @Override
        void visitClosureExpression(ClosureExpression closure) {
            if (!bodies.any { it.is(closure) }) {
                mistakes << "line ${closure.lineNumber}: a closure that is not the body of a step".toString()
            }
            super.visitClosureExpression(closure)
        }
    }
}
